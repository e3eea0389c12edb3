/** Who changed what, newest first, and whether the chain of these entries is whole. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Facts} from "../../components/facts.js"
import {Subject} from "../../components/key_name.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Panel} from "../../components/panel.js"
import {PeriodFilter, usePeriod} from "../../components/period.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get} from "../../core/api.js"
import {exactTime, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {queryOf, useQuery} from "../../core/query.js"
import {may} from "../../core/session.js"

const DEFAULTS = {period: "month", from: "", to: "", actor: "", action: "", target: "", tenant: ""}
const NOUNS = ["", "user", "key", "team", "budget", "session", "login", "signing_key", "model", "collection", "usage", "mcp", "settings", "config"]

export function Audit() {
  const [filter, set] = useQuery(DEFAULTS)
  const [open, setOpen] = useState(null)
  const {period: _period, from: _from, to: _to, ...wanted} = filter
  const {pages, cursor, error, next, more, retry, reload} = usePages(`/audit?${queryOf({...usePeriod(/** @type {any} */ (filter)), ...wanted, limit: 200})}`)
  const events = pages.flatMap(page => page.events)
  const names = Object.assign({}, ...pages.map(page => page.key_names))
  const text = name => html`<${TextFilter} key=${name} label=${t(name === "tenant" ? "people.team" : `audit.${name}`)} value=${filter[name]} onChange=${value => set({[name]: value})} />`
  const nouns = NOUNS.includes(filter.action) ? NOUNS : [...NOUNS, filter.action]
  const columns = [
    {key: "time", title: t("requests.time"), cell: event => html`<${When} at=${event.time} />`},
    {key: "actor", title: t("audit.actor"), cell: event => event.actor},
    {key: "action", title: t("audit.action"), cell: event => html`<code>${event.action}</code>`},
    {key: "target", title: t("audit.target"), cell: event => html`<${Subject} subject=${event.target} names=${names} />`},
    {key: "details", title: t("audit.details"), cell: event => html`<code class="dim">${JSON.stringify(event.details)}</code>`},
    {key: "address", title: t("audit.address"), cell: event => event.address ?? "–"},
  ]
  return html`
    <${PageHead} title=${t("page.audit")} hint=${t("audit.hint")}>
      ${may.peek()("admin") && html`<${Verify} />`}<button onClick=${reload}>${t("action.reload")}</button><//>
    <div class="filters">
      <${PeriodFilter} value=${filter} onChange=${set} offered=${["day", "week", "month", "quarter"]} />
      <${ChoiceFilter} label=${t("audit.action")} value=${filter.action} onChange=${action => set({action})}
        options=${nouns.map(each => [each, each || t("requests.any")])} />
      ${["actor", "target", ...(may.peek()("admin") ? ["tenant"] : [])].map(text)}</div>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : events.length === 0
      ? html`<${Empty} title=${t("audit.none")}><p>${t("audit.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.audit")} columns=${columns} rows=${events} id=${event => event.seq} onOpen=${setOpen} onEnd=${more} />`}
    ${cursor && html`<button class="quiet wide" onClick=${next}>${t("audit.more")}</button>`}
    ${open && html`
      <${Panel} title=${open.action} onClose=${() => setOpen(null)}>
        <${Facts} items=${[[t("requests.time"), exactTime(open.time)], [t("audit.actor"), open.actor], [t("audit.credential"), html`<${Subject} subject=${open.credential} names=${names} />`],
          [t("audit.target"), html`<${Subject} subject=${open.target} names=${names} />`], [t("people.team"), open.tenant], [t("audit.address"), open.address], [t("audit.number"), number(open.seq)],
          [t("audit.hash"), html`<code>${open.hash}</code>`]]} />
        <h3>${t("audit.details")}</h3><pre class="text" tabindex="0">${JSON.stringify(open.details, null, 2)}</pre>
      <//>`}`
}

/** Walks the chain when it is asked to, and says what it found. */
function Verify() {
  const [state, setState] = useState(/** @type {any} */ ({}))
  const verify = async () => {
    setState({busy: true})
    try {
      setState({verdict: await get("/audit/verify")})
    } catch (error) {
      setState({error})
    }
  }
  const {busy, verdict, error} = state
  return html`
    <span role="status">${verdict && html`<span class=${`badge ${verdict.ok ? "good" : "bad"}`}>${
      verdict.ok ? t("audit.whole", {count: number(verdict.events)}) : verdict.fault}</span>`}${error && html`<span class="bad-text">${error.message}</span>`}</span>
    <button disabled=${busy} onClick=${verify}>${t("audit.verify")}</button>`
}
