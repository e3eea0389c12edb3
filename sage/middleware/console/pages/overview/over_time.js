/** Requests, errors, tokens, cost and how long calls took, over a period: from `/usage/timeline`. */
import {TimeChart} from "../../components/chart.js"
import {ChoiceFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PERIODS} from "../../components/period.js"
import {get} from "../../core/api.js"
import {clockTime, compact, dayOf, duration, money, number} from "../../core/format.js"
import {html, useLoaded, useMemo} from "../../core/html.js"
import {t} from "../../core/language.js"
import {queryOf, useQuery} from "../../core/query.js"
import {address} from "../../core/router.js"

const STEPS = 60
const DAY = 86_400

/** The rows of an answer with one for each of its steps, also for those without a call. */
function everyStep({step, from, to, rows}) {
  const known = Object.fromEntries(rows.map(row => [row.time, row]))
  const first = Math.floor(from / step) * step
  const none = {requests: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0, cost: 0, ms: null, first_token_ms: null}
  return Array.from({length: Math.ceil((to - first) / step)}, (_, index) => {
    const time = first + index * step
    return {...none, ...known[time], time}
  })
}

export function OverTime({turn}) {
  const [{period}, set] = useQuery({period: "day"})
  const {data, error, reload} = useLoaded(stop => get(`/usage/timeline?${queryOf({from: Math.floor(Date.now() / 1000) - PERIODS[period], steps: STEPS})}`, stop), [period, turn])
  const rows = useMemo(() => data && everyStep(data), [data])
  return html`
    <section aria-labelledby="over-time">
      <div class="title-row"><h2 id="over-time">${t("overview.over_time")}</h2>
        <${ChoiceFilter} label=${t("period.label")} value=${period} onChange=${value => set({period: value})}
          options=${["hour", "day", "week", "month"].map(each => [each, t(`period.${each}`)])} /></div>
      <${Failure} error=${error} retry=${reload} />
      ${!rows ? !error && html`<${Waiting} />` : data.rows.length === 0
        ? html`<${Empty} title=${t("overview.no_requests")}>
            <p><a href=${address("playground")}>${t("overview.ask")}</a> · <a href=${address("connect")}>${t("overview.connect")}</a></p><//>`
        : html`<${Charts} rows=${rows} step=${data.step} />`}
    </section>`
}

function Charts({rows, step}) {
  const total = name => rows.reduce((sum, row) => sum + row[name], 0)
  const tokens = total("prompt_tokens") + total("completion_tokens")
  const parts = useMemo(() => {
    const of = pick => rows.map(row => pick(row) ?? null)
    return {
      times: of(row => row.time),
      calls: [{label: t("usage.requests"), values: of(row => row.requests)}, {label: t("usage.failed"), values: of(row => row.failed), tone: "bad"}],
      took: [{label: t("overview.took_half"), values: of(row => row.ms?.p50)}, {label: t("overview.took_most"), values: of(row => row.ms?.p95), tone: "second"}],
      first: [{label: t("overview.first_half"), values: of(row => row.first_token_ms?.p50)}, {label: t("overview.first_most"), values: of(row => row.first_token_ms?.p95), tone: "second"}],
      cost: [{label: t("usage.cost"), values: of(row => row.cost)}],
    }
  }, [rows])
  const showTime = step < DAY ? step < 3600 || rows.length <= 48 ? short : dayOf : dayOf
  const draw = (series, label, show) => html`<${TimeChart} line=${true} times=${parts.times} series=${series} label=${label} show=${show} showTime=${showTime} />`
  return html`
    <dl class="tiles">
      <div><dt>${t("usage.requests")}</dt><dd>${number(total("requests"))}</dd></div>
      <div><dt>${t("usage.failed")}</dt><dd>${number(total("failed"))}</dd></div>
      <div><dt>${t("usage.tokens")}</dt><dd title=${number(tokens)}>${compact(tokens)}</dd></div>
      <div><dt>${t("usage.cost")}</dt><dd>${money(total("cost"))}</dd></div>
    </dl>
    <div class="charts">
      ${draw(parts.calls, t("overview.calls_label", {count: total("requests"), failed: total("failed")}), compact)}
      ${draw(parts.cost, t("overview.cost_label", {cost: money(total("cost"))}), money)}
      ${draw(parts.took, t("overview.took_label"), duration)}
      ${parts.first.some(each => each.values.some(value => value !== null)) && draw(parts.first, t("overview.first_label"), duration)}
    </div>`
}

const short = seconds => clockTime(seconds).replace(/(\d+:\d+):\d+/, "$1")
