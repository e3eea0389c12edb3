/** What calls used and cost, by day, model, user, key, tenant, provider or tag; the budgets. */
import {TimeChart} from "../../components/chart.js"
import {Meter} from "../../components/meter.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, saveFile} from "../../core/api.js"
import {money, number} from "../../core/format.js"
import {html, useLoaded, useMemo, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {everyDay, lastDays} from "../../core/days.js"

const GROUPS = ["day", "model", "user", "key", "tenant", "provider", "tag"]
const PERIODS = [1, 7, 30, 90]

export function Usage() {
  const [by, setBy] = useState("day")
  const [days, setDays] = useState(30)
  const path = lastDays(by, days)
  const {data, error, reload} = useLoaded(stop => get(path, stop), [path])
  return html`
    <h1>${t("page.usage")}</h1>
    <div class="filters">
      <label>${t("usage.by")} <select value=${by} onChange=${event => setBy(event.target.value)}>
        ${GROUPS.map(each => html`<option key=${each} value=${each}>${t(`usage.${each}`)}</option>`)}</select></label>
      <label>${t("usage.period")} <select value=${String(days)} onChange=${event => setDays(Number(event.target.value))}>
        ${PERIODS.map(each => html`<option key=${each} value=${String(each)}>${t("usage.days", {count: each})}</option>`)}</select></label>
      <button class="quiet" onClick=${() => saveFile(`${path}&format=csv`, `usage-by-${by}.csv`)}>${t("usage.csv")}</button>
    </div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.rows.length === 0
      ? html`<${Empty} title=${t("usage.none")}><p>${t("usage.none_hint")}</p><//>`
      : html`<${Sums} by=${data.by} rows=${data.rows} days=${days} />`}
    <${Budgets} />`
}

function Sums({by, rows, days}) {
  const columns = [
    {key: by, title: t(`usage.${by}`), cell: row => row[by] || "–"},
    {key: "requests", title: t("usage.requests"), numeric: true, cell: row => number(row.requests)},
    {key: "failed", title: t("usage.failed"), numeric: true, cell: row => number(row.failed)},
    {key: "prompt", title: t("usage.prompt"), numeric: true, cell: row => number(row.prompt_tokens)},
    {key: "completion", title: t("usage.completion"), numeric: true, cell: row => number(row.completion_tokens)},
    {key: "cost", title: t("usage.cost"), numeric: true,
      cell: row => row.priced ? money(row.cost) : html`<span title=${t("usage.unpriced", {count: row.unpriced})}>${money(row.cost)} *</span>`},
  ]
  const [times, values] = useMemo(() => {
    const all = by === "day" ? everyDay(rows, days) : []
    return [all.map(row => row.at), all.map(row => row.requests)]
  }, [rows])
  return html`
    ${times.length > 1 && html`<${TimeChart} times=${times} values=${values} label=${t("usage.chart_label")} />`}
    <${Table} label=${t("page.usage")} columns=${columns} rows=${rows} id=${row => row[by]} />`
}

function Budgets() {
  const {data, error, reload} = useLoaded(stop => get("/budgets", stop))
  if (error) return html`<${Failure} error=${error} retry=${reload} />`
  if (!data || data.budgets.length === 0) return null
  const amount = (budget, value) => budget.usd === undefined ? t("usage.count_tokens", {count: number(value)}) : money(value)
  return html`
    <section aria-labelledby="budgets"><h2 id="budgets">${t("usage.budgets")}</h2>
      <ul class="cards">${data.budgets.map(budget => html`
        <li key=${budget.subject} class="card-link">
          <span class="name">${budget.subject}</span>
          <${Meter} value=${budget.spent} most=${budget.usd ?? budget.tokens} label=${budget.subject} />
          <span>${amount(budget, budget.spent)} / ${amount(budget, budget.usd ?? budget.tokens)} · ${t(`window.${budget.window}`)}</span>
          ${budget.opens_at && html`<span class="dim">${t("usage.opens")} <${When} at=${budget.opens_at} /></span>`}
        </li>`)}</ul>
    </section>`
}
