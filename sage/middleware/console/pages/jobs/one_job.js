/** One job in full, followed while it runs: what it made, why it failed, and what can be done. */
import {CodeBlock} from "../../components/copyable.js"
import {Facts} from "../../components/facts.js"
import {Confirm} from "../../components/dialog.js"
import {Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {StateBadge} from "../../components/state_badge.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {events, get, post, remove, request} from "../../core/api.js"
import {download} from "../../core/download.js"
import {duration, number} from "../../core/format.js"
import {html, useEffect, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {Progress, hasEnded, took} from "./progress.js"

/** The job as it goes on. */
function useJob(id) {
  const [state, setState] = useState(/** @type {any} */ ({job: undefined, error: undefined, turn: 0}))
  useEffect(() => {
    const stop = new AbortController()
    const follow = async () => {
      let job = await get(`/tasks/${id}`, stop.signal)
      setState(before => ({...before, job, error: undefined}))
      if (hasEnded(job)) return
      try {
        for await (const step of events(await request("GET", `/tasks/${id}/events`, {stop: stop.signal}))) {
          job = step
          setState(before => ({...before, job}))
        }
      } catch (error) {
        if (!hasEnded(job)) throw error // its stream has no [DONE]
      }
    }
    follow().catch(error => stop.signal.aborted || setState(before => ({...before, error})))
    return () => stop.abort()
  }, [id, state.turn])
  return {...state, again: () => setState(before => ({...before, turn: before.turn + 1}))}
}

export function OneJob({id, onClose, onChange}) {
  const {job, error, again} = useJob(id)
  const [failed, setFailed] = useState(undefined)
  const [forgetting, setForgetting] = useState(false)
  const act = what => async () => {
    setFailed(undefined)
    try {
      await post(`/tasks/${id}/${what}`)
      told(t(what === "retry" ? "jobs.retried" : "jobs.cancelled"))
      again()
    } catch (problem) {
      setFailed(problem)
    }
    onChange()
  }
  const save = (path, name) => () => download(path, name).catch(setFailed)
  return html`
    <${Panel} title=${job ? t(`job.${job.kind}`) : id} onClose=${onClose}>
      <${Failure} error=${error ?? failed} />
      ${!job ? !error && html`<${Waiting} />` : html`
        ${job.error && html`<p class="notice bad">${job.error.message}</p>`}
        <${Facts} items=${[
          [t("models.state"), html`<${StateBadge} state=${job.state} />`],
          [t("jobs.progress"), html`<${Progress} job=${job} />`],
          [t("jobs.rate"), job.progress.rate === null ? null : t("jobs.per_second", {count: number(job.progress.rate)})],
          [t("jobs.created"), html`<${When} at=${job.created_at} />`],
          [t("jobs.started"), html`<${When} at=${job.started_at} />`],
          [t("jobs.finished"), html`<${When} at=${job.finished_at} />`],
          [t("requests.took"), duration(took(job))],
          [t("jobs.forgotten"), html`<${When} at=${job.expires_at} />`],
          [t("requests.user"), job.user],
          [t("jobs.priority"), t(`priority.${job.priority}`)],
          [t("jobs.deliveries"), number(job.deliveries)],
          [t("jobs.retries"), number(job.retries)],
          ...Object.entries(job.metadata),
          [t("jobs.id"), html`<code>${job.id}</code>`],
        ]} />
        ${job.result && html`<h3>${t("jobs.result")}</h3><${CodeBlock} language="JSON" text=${JSON.stringify(job.result, null, 2)} />`}
        <div class="actions start">
          ${job.progress.done > 0 && html`<button onClick=${save(`/tasks/${id}/results`, `${id}.jsonl`)}>${t("jobs.results")}</button>`}
          ${job.output_file_id && html`<button onClick=${save(`/v1/files/${job.output_file_id}/content`, job.output_file_id)}>${t("jobs.output")}</button>`}
          ${job.error_file_id && html`<button onClick=${save(`/v1/files/${job.error_file_id}/content`, job.error_file_id)}>${t("jobs.errors")}</button>`}
        </div>
        <div class="actions">
          ${hasEnded(job) ? html`
            <button class="danger" onClick=${() => setForgetting(true)}>${t("jobs.discard")}</button>
            ${job.state !== "succeeded" && html`<button class="primary" onClick=${act("retry")}>${t("action.retry")}</button>`}`
            : html`<button class="danger" disabled=${job.state === "cancelling"} onClick=${act("cancel")}>${t("jobs.cancel")}</button>`}
        </div>`}
      ${forgetting && html`<${Confirm} title=${t("jobs.discard_title")} lost=${t("jobs.discard_lost")} action=${t("jobs.discard")}
        onClose=${() => setForgetting(false)}
        onConfirm=${async () => { await remove(`/tasks/${id}`); told(t("jobs.discarded", {count: 1})); onChange(); onClose() }} />`}
    <//>`
}
