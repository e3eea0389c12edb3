/** One memory: what it says, what it replaced, correcting it, forgetting it. */
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Failure} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {get, post, remove} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

/** @param {{memory: any, scope: Record<string, string>, onClose: () => void, onChange: () => void}} properties */
export function OneMemory({memory, scope, onClose, onChange}) {
  const query = new URLSearchParams(scope).toString()
  const {data: past} = useLoaded(stop => get(`/memory/${memory.id}/history?${query}`, stop))
  const [failed, setFailed] = useState(undefined)
  const [forgetting, setForgetting] = useState(false)
  const earlier = (past?.history ?? []).filter(each => each.id !== memory.id)
  const act = async (work, text) => {
    setFailed(undefined)
    try {
      await work()
      told(text)
      onChange()
    } catch (problem) {
      setFailed(problem)
    }
  }
  const correct = event => {
    event.preventDefault()
    const content = String(new FormData(event.target).get("content")).trim()
    act(() => post("/memory", {session_id: memory.session_id, content, memory_type: memory.memory_type, metadata: memory.metadata,
      supersedes: memory.id, ...scope}), t("memory.corrected"))
  }
  return html`
    <${Panel} title=${t("memory.one")} onClose=${onClose}>
      <form onSubmit=${correct}>
        <${Field} label=${t("memory.content")} hint=${t("memory.correct_hint")}>${field => html`
          <textarea ...${field} name="content" rows="5" required defaultValue=${memory.content} />`}<//>
        <${Failure} error=${failed} />
        <div class="actions">
          <button type="button" class="danger" onClick=${() => setForgetting(true)}>${t("memory.forget")}</button>
          <button class="primary">${t("memory.correct")}</button></div>
      </form>
      <${Facts} items=${[
        [t("memory.session"), memory.session_id],
        [t("memory.type"), memory.memory_type],
        [t("jobs.created"), html`<${When} at=${memory.created_at} />`],
        ...Object.entries(memory.metadata).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]),
        [t("jobs.id"), html`<code>${memory.id}</code>`],
      ]} />
      ${earlier.length > 0 && html`<h3>${t("memory.history")}</h3>
        <ul class="changes">${earlier.map(each => html`
          <li key=${each.id}><span>${each.content}</span> <span class="dim"><${When} at=${each.created_at} /></span>
            <button class="quiet small" onClick=${() => act(() => post(`/memory/${each.id}/restore?${query}`), t("memory.restored"))}>${t("memory.restore")}</button></li>`)}</ul>`}
      ${forgetting && html`<${Confirm} title=${t("memory.forget_title")} lost=${t("memory.lost", {content: memory.content})} action=${t("memory.forget")}
        onClose=${() => setForgetting(false)}
        onConfirm=${async () => { await remove(`/memory/${memory.id}?${query}`); told(t("memory.forgotten", {count: 1})); onChange() }} />`}
    <//>`
}
