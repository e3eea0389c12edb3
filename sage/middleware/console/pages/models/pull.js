/** Fetching a model from a hub, or to an Ollama server, with its progress. */
import {Dialog} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {Failure} from "../../components/notice.js"
import {events, request} from "../../core/api.js"
import {bytes} from "../../core/format.js"
import {html, useEffect, useRef, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

export function Pull({onClose}) {
  const [step, setStep] = useState(null)
  const [error, setError] = useState(undefined)
  const [done, setDone] = useState("")
  const stop = useRef(null)
  useEffect(() => () => stop.current?.abort(), [])
  const pull = async event => {
    event.preventDefault()
    const source = String(new FormData(event.target).get("source")).trim()
    stop.current = new AbortController()
    setError(undefined)
    setStep({status: t("models.pulling")})
    try {
      const answer = await request("POST", `/models/${source.split("/").map(encodeURIComponent).join("/")}/pull`,
        {stop: stop.current.signal})
      let last = ""
      for await (const progress of events(answer)) { setStep(progress); last = progress.model ?? last }
      setDone(last || source)
    } catch (failed) {
      if (!stop.current.signal.aborted) setError(failed)
    }
    setStep(null)
  }
  return html`
    <${Dialog} title=${t("models.pull")} onClose=${onClose}>
      <form onSubmit=${pull}>
        <${Field} label=${t("models.pull_source")} hint=${t("models.pull_hint")}>${field => html`
          <input ...${field} name="source" required spellcheck="false" autocomplete="off" />`}<//>
        ${step && html`<div role="status"><p>${step.status}${step.total ? ` · ${bytes(step.completed ?? 0)} / ${bytes(step.total)}` : ""}</p>
          <progress max=${step.total ?? undefined} value=${step.total ? step.completed ?? 0 : undefined} aria-label=${t("models.pull")} /></div>`}
        ${done && html`<p class="notice good" role="status">${t("models.pulled", {name: done})}</p>`}
        <${Failure} error=${error} />
        <div class="actions">
          <button type="button" class="quiet" onClick=${onClose}>${t(done ? "action.close" : "action.cancel")}</button>
          ${!done && html`<button class="primary" disabled=${step !== null}>${t("models.pull_action")}</button>`}
        </div>
      </form>
    <//>`
}
