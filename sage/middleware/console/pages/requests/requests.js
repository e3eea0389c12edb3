/** The log of calls, newest first. Its filters and the call that is open live in the address. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {PeriodFilter, usePeriod} from "../../components/period.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {saveFile} from "../../core/api.js"
import {duration, money, number} from "../../core/format.js"
import {html, useSignal, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {queryOf, useQuery} from "../../core/query.js"
import {place} from "../../core/router.js"
import {hasAccounts, may} from "../../core/session.js"
import {OneCall} from "./one_call.js"

const PAGE = 200
const MOST = 1000 // calls in one file
const STATUSES = ["", "2xx", "4xx", "5xx", "failed"]
const FURTHER = ["provider", "key", "tag", "id"]
const DEFAULTS = {period: "week", from: "", to: "", status: "", model: "", user: "", tenant: "", provider: "", key: "", tag: "", id: "", at: ""}

/** Filters of people that a user may set. */
function people() {
  if (!hasAccounts.peek() || !may.peek()("tenant:admin")) return []
  return may.peek()("admin") ? ["user", "tenant"] : ["user"]
}

export function Requests() {
  const [filter, set] = useQuery(DEFAULTS)
  const {rest} = useSignal(place)
  const [turn, setTurn] = useState(0)
  const {period: _period, from: _from, to: _to, at, ...wanted} = filter
  const path = `/usage/requests?${queryOf({...usePeriod(/** @type {any} */ (filter), turn), ...wanted})}`
  const {pages, cursor, error, next, more, retry, reload} = usePages(`${path}&limit=${PAGE}`)
  const rows = pages.flatMap(page => page.requests)
  const text = name => html`<${TextFilter} key=${name} label=${t(`filter.${name}`)} value=${filter[name]} onChange=${value => set({[name]: value})} />`
  const isFiltered = Object.entries(wanted).some(([, value]) => value)
  return html`
    <${PageHead} title=${t("page.requests")} hint=${t("requests.hint")}>
      <button class="quiet" onClick=${() => saveFile(`${path}&format=csv&limit=${MOST}`, "calls.csv")}>${t("usage.csv")}</button>
      <button onClick=${() => { setTurn(turn + 1); reload() }}>${t("action.reload")}</button>
    <//>
    <div class="filters">
      <${PeriodFilter} value=${filter} onChange=${set} />
      <${ChoiceFilter} label=${t("requests.status")} value=${filter.status} onChange=${status => set({status})}
        options=${STATUSES.map(each => [each, each === "failed" ? t("requests.failed") : each || t("requests.any")])} />
      ${["model", ...people()].map(text)}
      ${isFiltered && html`<button class="quiet" onClick=${() => set({...DEFAULTS, period: filter.period, from: filter.from, to: filter.to})}>${t("filter.none")}</button>`}
    </div>
    <details class="further" open=${FURTHER.some(name => filter[name])}><summary>${t("filter.more")}</summary>
      <div class="filters">${FURTHER.map(text)}</div></details>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : rows.length === 0
      ? html`<${Empty} title=${t("requests.none")}><p>${t(isFiltered ? "requests.none_filtered" : "requests.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.requests")} columns=${columns()} rows=${rows} id=${each => `${each.id} ${each.time}`} onEnd=${more}
          onOpen=${call => set({at: String(call.time)}, call.id || "-")} />`}
    ${cursor && html`<button class="quiet wide" onClick=${next}>${t("requests.more")}</button>`}
    ${rest && html`<${OneCall} id=${rest} at=${at} known=${rows.find(each => (each.id || "-") === rest && String(each.time) === at)}
      onClose=${() => set({at: ""}, "")} />`}`
}

const columns = () => [
  {key: "time", title: t("requests.time"), cell: each => html`<${When} at=${each.time} />`},
  {key: "model", title: t("requests.model"), cell: each => each.model},
  {key: "user", title: t("requests.user"), cell: each => each.user},
  {key: "status", title: t("requests.status"), cell: each => html`<span class=${`badge ${each.status < 400 ? "good" : "bad"}`}>${each.status}</span>
    ${each.attempts > 1 && html` <span class="dim" title=${t("call.attempts")}>×${each.attempts}</span>`}`},
  {key: "tokens", title: t("usage.tokens"), numeric: true, cell: each => `${number(each.prompt_tokens)} → ${number(each.completion_tokens)}`},
  {key: "cost", title: t("usage.cost"), numeric: true, cell: each => money(each.cost)},
  {key: "first", title: t("requests.first"), numeric: true, cell: each => duration(each.first_token_ms)},
  {key: "ms", title: t("requests.took"), numeric: true, cell: each => duration(each.ms)},
  {key: "key", title: t("call.key"), cell: each => each.key ? html`<span title=${each.key}>${each.key_name ?? each.key}</span>` : "–"},
]
