/** The jobs, the newest first: how far they are, and what can be done with them. */
import {ChoiceFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {duration} from "../../core/format.js"
import {useEvery} from "../../core/every.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {OneJob} from "./one_job.js"
import {ENDED, Progress, hasEnded, took} from "./progress.js"

const STATES = ["queued", "running", ...ENDED]
const KINDS = ["generate", "embed", "evaluate", "ingest", "reembed", "snapshot", "batch", "response"]

export function JobList() {
  const [filters, setFilters] = useState({state: "", kind: ""})
  const [open, setOpen] = useState(null)
  const query = Object.entries(filters).filter(([, value]) => value).map(([name, value]) => `&${name}=${value}`).join("")
  const {pages, cursor, error, next, more, retry, reload, refresh} = usePages(`/tasks?limit=200${query}`, {parameter: "after", field: "next"})
  const jobs = pages.flatMap(page => page.tasks)
  useEvery(refresh, jobs.some(job => !hasEnded(job)))
  const options = (prefix, values) => [["", t("requests.any")], ...values.map(each => [each, t(`${prefix}.${each}`)])]
  const columns = [
    {key: "kind", title: t("jobs.kind"), cell: job => t(`job.${job.kind}`)},
    {key: "state", title: t("models.state"), cell: job => html`<${StateBadge} state=${job.state} />`},
    {key: "progress", title: t("jobs.progress"), cell: job => html`<${Progress} job=${job} />`},
    {key: "created", title: t("jobs.created"), cell: job => html`<${When} at=${job.created_at} />`},
    {key: "took", title: t("requests.took"), numeric: true, cell: job => duration(took(job))},
    {key: "user", title: t("requests.user"), cell: job => job.user},
    {key: "error", title: t("jobs.error"), cell: job => html`<span class="bad-text" title=${job.error?.message ?? ""}>${job.error?.message ?? ""}</span>`},
  ]
  return html`
    <div class="filters">
      <${ChoiceFilter} label=${t("models.state")} value=${filters.state} options=${options("state", STATES)} onChange=${state => setFilters({...filters, state})} />
      <${ChoiceFilter} label=${t("jobs.kind")} value=${filters.kind} options=${options("job", KINDS)} onChange=${kind => setFilters({...filters, kind})} />
      <button class="quiet" onClick=${reload}>${t("action.reload")}</button>
    </div>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : jobs.length === 0
      ? html`<${Empty} title=${t("jobs.none")}><p>${t("jobs.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.jobs")} columns=${columns} rows=${jobs} id=${job => job.id} onOpen=${job => setOpen(job.id)} onEnd=${more} />`}
    ${cursor && html`<button class="wide" onClick=${next}>${t("jobs.more")}</button>`}
    ${open && html`<${OneJob} key=${open} id=${open} onClose=${() => setOpen(null)} onChange=${reload} />`}`
}
