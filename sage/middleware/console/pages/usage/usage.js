/** What calls used and cost, by day, model, user, key, team, provider or tag, in any period; the budgets. */
import {Bars} from "../../components/bars.js"
import {TimeChart} from "../../components/chart.js"
import {ChoiceFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {KeyName} from "../../components/key_name.js"
import {PERIODS, PeriodFilter, zone} from "../../components/period.js"
import {Table} from "../../components/table.js"
import {get, saveFile} from "../../core/api.js"
import {fillDays} from "../../core/days.js"
import {compact, money, number} from "../../core/format.js"
import {html, useLoaded, useMemo, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf, queryOf, useQuery} from "../../core/query.js"
import {hasAccounts, may} from "../../core/session.js"
import {Budgets} from "./budgets.js"

const OWN = ["day", "model", "provider", "key", "tag"]
const OF = {requests: [row => row.requests, compact], cost: [row => row.cost ?? 0, money],
  tokens: [row => row.prompt_tokens + row.completion_tokens, compact], failed: [row => row.failed, compact]}
const DRAWN = 12 // bars
const DEFAULTS = {by: "day", of: "requests", period: "month", from: "", to: "", user: "", tenant: "", model: "", provider: "", key: "", tag: ""}
const DAY = 86_400

/** What calls may be summed by, for this user. */
function groups() {
  if (!hasAccounts.peek() || !may.peek()("tenant:admin")) return OWN
  return ["day", "user", ...(may.peek()("admin") ? ["tenant"] : []), ...OWN.slice(1)]
}

/** The day that is so many seconds ago, as the user's calendar has it. */
const dayBefore = seconds => new Intl.DateTimeFormat("en-CA").format(Date.now() - seconds * 1000)

export function Usage() {
  const [filter, set] = useQuery(DEFAULTS)
  const {by, of, period, from, to, ...wanted} = filter
  const begin = PERIODS[period] ? dayBefore(PERIODS[period] - DAY) : from
  const path = `/usage?${queryOf({by, from: begin, to: PERIODS[period] ? "" : to, tz: zone(), ...wanted})}`
  const [turn, setTurn] = useState(0)
  const {data, error, reload} = useLoaded(stop => get(path, stop), [path, turn])
  return html`
    <${PageHead} title=${t("page.usage")} hint=${t("usage.hint")}>
      <button class="quiet" onClick=${() => saveFile(`${path}&format=csv`, `usage-by-${by}.csv`)}>${t("usage.csv")}</button>
      <button onClick=${() => setTurn(turn + 1)}>${t("action.reload")}</button><//>
    <div class="filters">
      <${ChoiceFilter} label=${t("usage.by")} value=${by} onChange=${value => set({by: value})} options=${groups().map(each => [each, t(`usage.${each}`)])} />
      <${PeriodFilter} value=${filter} onChange=${set} offered=${["day", "week", "month", "quarter"]} />
      <${ChoiceFilter} label=${t("usage.drawn")} value=${of} onChange=${value => set({of: value})} options=${Object.keys(OF).map(each => [each, t(`usage.${each}`)])} />
      ${Object.entries(wanted).filter(([, value]) => value).map(([name, value]) => html`
        <button key=${name} class="quiet" onClick=${() => set({[name]: ""})} aria-label=${t("filter.without", {name: `${t(`usage.${name}`)} ${value}`})}>
          ${t(`usage.${name}`)}: <b>${name === "key" ? html`<${OneKeyName} id=${value} />` : value}</b> ×</button>`)}
    </div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.rows.length === 0
      ? html`<${Empty} title=${t("usage.none")}><p>${t("usage.none_hint")}</p><//>`
      : html`<${Sums} data=${data} of=${of} onOpen=${row => open(row[data.by], data.by, filter, set)} />`}
    <${Budgets} turn=${turn} />`
}

/** The name of a key, where the user may see the key. */
function OneKeyName({id}) {
  const {data} = useLoaded(stop => hasAccounts.peek() ? get(`/auth/keys/${encodeURIComponent(id)}`, stop).catch(() => null) : Promise.resolve(null), [id])
  return html`<${KeyName} id=${id} name=${data?.name} />`
}

/** A row leads on: a day to its requests, anything else to its days. */
function open(name, by, filter, set) {
  if (by !== "day") return set({by: "day", [by]: name})
  const {user, tenant, model, provider, key, tag} = filter
  location.hash = addressOf("requests", "", {period: "chosen", from: name, to: name, user, tenant, model, provider, key, tag})
}

function Sums({data, of, onOpen}) {
  const {by, rows} = data
  const [value, show] = OF[of] ?? OF.requests
  const total = name => rows.reduce((sum, row) => sum + (row[name] ?? 0), 0)
  const days = useMemo(() => by === "day" ? fillDays(rows, data.from, data.to) : [], [data])
  const [times, values] = useMemo(() => [days.map(row => row.at), days.map(value)], [days, of])
  const tokens = total("prompt_tokens") + total("completion_tokens")
  const unpriced = total("unpriced")
  const columns = [
    {key: by, title: t(`usage.${by}`), cell: row => by === "key" ? html`<${KeyName} id=${row.key} name=${row.key_name} />` : row[by] || "–"},
    {key: "requests", title: t("usage.requests"), numeric: true, cell: row => number(row.requests)},
    {key: "failed", title: t("usage.failed"), numeric: true, cell: row => number(row.failed)},
    {key: "prompt", title: t("usage.prompt"), numeric: true, cell: row => number(row.prompt_tokens)},
    {key: "completion", title: t("usage.completion"), numeric: true, cell: row => number(row.completion_tokens)},
    {key: "cost", title: t("usage.cost"), numeric: true,
      cell: row => row.priced ? money(row.cost) : html`<span title=${t("usage.unpriced", {count: row.unpriced})}>${money(row.cost)} *</span>`},
  ]
  const bars = by === "day" ? [] : rows.map(row => ({name: row.key_name || row[by] || "–", value: value(row), text: show(value(row))}))
    .sort((one, other) => other.value - one.value).slice(0, DRAWN)
  return html`
    <dl class="tiles">
      <div><dt>${t("usage.requests")}</dt><dd>${number(total("requests"))}</dd></div>
      <div><dt>${t("usage.failed")}</dt><dd>${number(total("failed"))}</dd></div>
      <div><dt>${t("usage.tokens")}</dt><dd title=${number(tokens)}>${compact(tokens)}</dd></div>
      <div><dt>${t("usage.cost")}</dt><dd>${money(total("cost"))}</dd></div>
    </dl>
    ${unpriced > 0 && html`<p class="dim">* ${t("usage.unpriced", {count: unpriced})}</p>`}
    ${times.length > 1 && html`<${TimeChart} times=${times} values=${values} show=${show} label=${t("usage.chart_label")} />`}
    ${bars.length > 1 && html`<${Bars} rows=${bars} label=${t(`usage.${of}`)} />`}
    <${Table} label=${t("page.usage")} columns=${columns} rows=${by === "day" ? [...rows].reverse() : rows} id=${row => row[by]} onOpen=${onOpen} />`
}
