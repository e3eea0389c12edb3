/** The log of calls, newest first, with filters; one call's way as bars. */
import {Dialog} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {duration, exactTime, money, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"

const PAGE = 200
const STATUSES = ["", "2xx", "4xx", "5xx", "failed"]

export function Requests() {
  const [filter, setFilter] = useState({model: "", status: ""})
  const [open, setOpen] = useState(null)
  const query = new URLSearchParams({limit: String(PAGE)})
  for (const [name, value] of Object.entries(filter)) if (value.trim()) query.set(name, value.trim())
  const {pages, cursor, error, next, reload} = usePages(`/usage/requests?${query}`)
  const rows = pages.flatMap(page => page.requests)
  const set = name => event => setFilter({...filter, [name]: event.target.value})
  const columns = [
    {key: "time", title: t("requests.time"), cell: each => html`<${When} at=${each.time} />`},
    {key: "model", title: t("requests.model"), cell: each => each.model},
    {key: "user", title: t("requests.user"), cell: each => each.user},
    {key: "status", title: t("requests.status"), cell: each => html`<span class=${`badge ${each.status < 400 ? "good" : "bad"}`}>${each.status}</span>`},
    {key: "tokens", title: t("usage.tokens"), numeric: true, cell: each => `${number(each.prompt_tokens)} → ${number(each.completion_tokens)}`},
    {key: "cost", title: t("usage.cost"), numeric: true, cell: each => money(each.cost)},
    {key: "first", title: t("requests.first"), numeric: true, cell: each => duration(each.first_token_ms)},
    {key: "ms", title: t("requests.took"), numeric: true, cell: each => duration(each.ms)},
  ]
  return html`
    <h1>${t("page.requests")}</h1>
    <div class="filters">
      <label>${t("requests.model")} <input value=${filter.model} onChange=${set("model")} spellcheck="false" /></label>
      <label>${t("requests.status")} <select value=${filter.status} onChange=${set("status")}>
        ${STATUSES.map(each => html`<option key=${each} value=${each}>${each || t("requests.any")}</option>`)}</select></label>
      <button class="quiet" onClick=${reload}>${t("action.reload")}</button>
    </div>
    <${Failure} error=${error} retry=${reload} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : rows.length === 0
      ? html`<${Empty} title=${t("requests.none")}><p>${t("requests.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.requests")} columns=${columns} rows=${rows} id=${each => `${each.id} ${each.time}`} onOpen=${setOpen} />`}
    ${cursor && html`<button class="quiet wide" onClick=${next}>${t("requests.more")}</button>`}
    ${open && html`<${OneCall} call=${open} onClose=${() => setOpen(null)} />`}`
}

const FACTS = ["id", "model", "deployment", "upstream_model", "operation", "user", "tenant", "key", "attempts",
  "cached_tokens", "reasoning_tokens"]

function OneCall({call, onClose}) {
  const first = call.first_token_ms ?? call.ms
  const spans = [
    {name: t("requests.until_first"), begin: 0, length: first},
    ...(call.ms > first ? [{name: t("requests.streaming"), begin: first, length: call.ms - first}] : []),
  ]
  return html`
    <${Dialog} title=${t("requests.one")} onClose=${onClose}>
      <p>${exactTime(call.time)} · ${call.status} · ${money(call.cost)}${call.priced ? "" : ` (${t("requests.unpriced")})`}</p>
      <ul class="waterfall" aria-label=${t("requests.way")}>
        ${spans.map(span => html`
          <li key=${span.name}><span>${span.name}</span>
            <span class="lane"><span class="span" style=${{
              left: `${span.begin / Math.max(call.ms, 1) * 100}%`, width: `${Math.max(1, span.length / Math.max(call.ms, 1) * 100)}%`}} /></span>
            <span class="numeric">${duration(span.length)}</span></li>`)}
      </ul>
      <dl class="facts">${FACTS.filter(name => call[name] || call[name] === 0).map(name => html`
        <div key=${name}><dt>${t(`call.${name}`)}</dt><dd>${String(call[name])}</dd></div>`)}</dl>
      <div class="actions"><button class="quiet" onClick=${onClose}>${t("action.close")}</button></div>
    <//>`
}
