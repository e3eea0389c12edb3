/** Jobs: how far they are, what failed, and cancelling or trying them again. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Meter} from "../../components/meter.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, post} from "../../core/api.js"
import {duration, number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"

const STATES = ["", "queued", "running", "succeeded", "failed", "dead", "cancelled"]
const ENDED = ["succeeded", "failed", "dead", "cancelled"]

export function Jobs() {
  const [state, setState] = useState("")
  const [failed, setFailed] = useState(undefined)
  const {data, error, reload} = useLoaded(stop => get(`/tasks?limit=100${state ? `&state=${state}` : ""}`, stop), [state])
  const act = async (job, what) => {
    setFailed(undefined)
    try { await post(`/tasks/${job.id}/${what}`) } catch (problem) { setFailed(problem) }
    reload()
  }
  const columns = [
    {key: "kind", title: t("jobs.kind"), cell: job => t(`job.${job.kind}`)},
    {key: "state", title: t("models.state"), cell: job => html`<span title=${job.error?.message ?? ""}><${StateBadge} state=${job.state} /></span>`},
    {key: "progress", title: t("jobs.progress"), cell: job => html`<${Progress} job=${job} />`},
    {key: "user", title: t("requests.user"), cell: job => job.user},
    {key: "created", title: t("jobs.created"), cell: job => html`<${When} at=${job.created_at} />`},
    {key: "took", title: t("requests.took"), numeric: true, cell: job => duration(took(job))},
    {key: "act", title: t("keys.actions"), cell: job => ENDED.includes(job.state)
      ? ["failed", "dead"].includes(job.state) && html`<button class="quiet small" onClick=${() => act(job, "retry")}>${t("action.retry")}</button>`
      : html`<button class="quiet small" onClick=${() => act(job, "cancel")}>${t("jobs.cancel")}</button>`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.jobs")}</h1>
      ${may.peek()("admin") && html`<a class="button" href="/flower" target="_blank" rel="noopener">Flower</a>`}</div>
    <div class="filters">
      <label>${t("models.state")} <select value=${state} onChange=${event => setState(event.target.value)}>
        ${STATES.map(each => html`<option key=${each} value=${each}>${each ? t(`state.${each}`) : t("requests.any")}</option>`)}</select></label>
      <button class="quiet" onClick=${reload}>${t("action.reload")}</button>
    </div>
    <${Failure} error=${error ?? failed} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.tasks.length === 0
      ? html`<${Empty} title=${t("jobs.none")}><p>${t("jobs.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.jobs")} columns=${columns} rows=${data.tasks} id=${job => job.id} />`}`
}

/** Milliseconds that a job has run so far, or had; `null` if it has not begun. */
const took = ({started_at: begin, finished_at: end}) => begin === null ? null : ((end ?? Date.now() / 1000) - begin) * 1000

function Progress({job: {progress, id}}) {
  if (!progress.total) return progress.done ? number(progress.done) : "–"
  const failed = progress.failed ? ` · ${t("jobs.failed", {count: number(progress.failed)})}` : ""
  return html`<span class="progress"><${Meter} value=${progress.done} most=${progress.total} label=${id} />
    ${number(progress.done)} / ${number(progress.total)}${failed}</span>`
}
