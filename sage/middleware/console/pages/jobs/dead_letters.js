/** Jobs that were given up after several tries: tried once more, or discarded, one or all. */
import {Confirm} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {post, remove} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {OneJob} from "./one_job.js"

export function DeadLetters() {
  const {pages, cursor, error, next, more, retry: again, reload} = usePages("/tasks?state=dead&limit=200", {parameter: "after", field: "next"})
  const [open, setOpen] = useState(null)
  const [failed, setFailed] = useState(undefined)
  const [discarding, setDiscarding] = useState(/** @type {any[] | null} */ (null))
  const jobs = pages.flatMap(page => page.tasks)
  const retry = async which => {
    setFailed(undefined)
    try {
      for (const job of which) await post(`/tasks/${job.id}/retry`)
      told(t("jobs.retried"))
    } catch (problem) {
      setFailed(problem)
    }
    reload()
  }
  const discard = async () => {
    for (const job of discarding ?? []) await remove(`/tasks/${job.id}`)
    told(t("jobs.discarded", {count: discarding?.length ?? 0}))
    reload()
  }
  const columns = [
    {key: "kind", title: t("jobs.kind"), cell: job => t(`job.${job.kind}`)},
    {key: "error", title: t("jobs.why"), cell: job => html`<span title=${job.error?.message ?? ""}>${job.error?.message ?? "–"}</span>`},
    {key: "deliveries", title: t("jobs.deliveries"), numeric: true, cell: job => number(job.deliveries)},
    {key: "finished", title: t("jobs.given_up"), cell: job => html`<${When} at=${job.finished_at} />`},
    {key: "act", title: t("keys.actions"), cell: job => html`
      <button class="quiet small" onClick=${() => retry([job])}>${t("action.retry")}</button>
      <button class="quiet small" onClick=${() => setDiscarding([job])}>${t("jobs.discard")}</button>`},
  ]
  return html`
    <p class="dim">${t("jobs.dead_hint")}</p>
    <${Failure} error=${error ?? failed} retry=${again} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : jobs.length === 0
      ? html`<${Empty} title=${t("jobs.no_dead")}><p>${t("jobs.no_dead_hint")}</p><//>`
      : html`
        <div class="actions start">
          <button onClick=${() => retry(jobs)}>${t("jobs.retry_all", {count: jobs.length})}</button>
          <button class="danger" onClick=${() => setDiscarding(jobs)}>${t("jobs.discard_all", {count: jobs.length})}</button></div>
        <${Table} label=${t("jobs.dead")} columns=${columns} rows=${jobs} id=${job => job.id} onOpen=${job => setOpen(job.id)} onEnd=${more} />`}
    ${cursor && html`<button class="wide" onClick=${next}>${t("jobs.more")}</button>`}
    ${open && html`<${OneJob} key=${open} id=${open} onClose=${() => setOpen(null)} onChange=${reload} />`}
    ${discarding && html`<${Confirm} title=${t("jobs.discard_title")} lost=${t("jobs.discard_lost")} action=${t("jobs.discard")}
      onClose=${() => setDiscarding(null)} onConfirm=${discard} />`}`
}
