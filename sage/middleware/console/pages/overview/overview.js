/** How the gateway is: what is not well, the last days, the models. */
import {TimeChart} from "../../components/chart.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {get} from "../../core/api.js"
import {compact, money, number} from "../../core/format.js"
import {html, useLoaded, useMemo} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {may} from "../../core/session.js"
import {everyDay, lastDays} from "../../core/days.js"
import {Now} from "./now.js"

const DAYS = 14

export function Overview() {
  const ready = useLoaded(stop => fetchReady(stop))
  const models = useLoaded(stop => get("/models", stop))
  return html`
    <h1>${t("page.overview")}</h1>
    <${NotWell} ready=${ready} models=${models} />
    ${may.peek()("metrics") && html`<${Now} />`}
    ${may.peek()("usage") && html`<${LastDays} />`}
    <section aria-labelledby="models-title">
      <h2 id="models-title">${t("overview.models")}</h2>
      <${Failure} error=${models.error} retry=${models.reload} />
      ${models.data ? html`<${ModelStates} models=${models.data.models} />` : !models.error && html`<${Waiting} />`}
    </section>`
}

/** `/ready` answers 503 where nothing can serve, with the same report. */
async function fetchReady(stop) {
  try {
    return await get("/ready", stop)
  } catch (error) {
    if (error.status === 503) return {status: "not_ready"}
    throw error
  }
}

function NotWell({ready, models}) {
  const troubles = Object.entries(ready.data?.cannot_serve ?? {})
  const failed = (models.data?.models ?? []).filter(model => model.state === "failed")
  if (ready.error) return html`<${Failure} error=${ready.error} retry=${ready.reload} />`
  if (!ready.data) return null
  if (troubles.length === 0 && failed.length === 0 && ready.data.status === "ready") {
    return html`<p class="notice good" role="status">${t("overview.well")}</p>`
  }
  return html`
    <section class="notice bad" aria-labelledby="troubles">
      <h2 id="troubles">${t("overview.not_well")}</h2>
      <ul>
        ${ready.data.status !== "ready" && html`<li>${t("overview.nothing_serves")}</li>`}
        ${troubles.map(([what, why]) => html`<li key=${what}><strong>${what}</strong>: ${why}</li>`)}
        ${failed.map(({name, error}) => html`
          <li key=${name}><a href=${address("models", name)}>${name}</a>: ${error?.message ?? t("state.failed")}</li>`)}
      </ul>
    </section>`
}

function LastDays() {
  const {data, error, reload} = useLoaded(stop => get(lastDays("day", DAYS), stop))
  const days = useMemo(() => data && everyDay(data.rows, DAYS), [data])
  if (!days) return html`<${Failure} error=${error} retry=${reload} />`
  const total = name => days.reduce((sum, day) => sum + (day[name] ?? 0), 0)
  if (total("requests") === 0) {
    return html`<${Empty} title=${t("overview.no_requests")}>
      <p><a href=${address("playground")}>${t("overview.ask")}</a> · <a href=${address("connect")}>${t("overview.connect")}</a></p><//>`
  }
  const tokens = total("prompt_tokens") + total("completion_tokens")
  const label = t("overview.chart_label", {count: total("requests"), days: DAYS})
  return html`
    <section aria-labelledby="days">
      <h2 id="days">${t("overview.last_days", {days: DAYS})}</h2>
      <dl class="tiles">
        <div><dt>${t("usage.requests")}</dt><dd>${number(total("requests"))}</dd></div>
        <div><dt>${t("usage.failed")}</dt><dd>${number(total("failed"))}</dd></div>
        <div><dt>${t("usage.tokens")}</dt><dd title=${number(tokens)}>${compact(tokens)}</dd></div>
        <div><dt>${t("usage.cost")}</dt><dd>${money(total("cost"))}</dd></div>
      </dl>
      <${TimeChart} times=${days.map(day => day.at)} values=${days.map(day => day.requests)} label=${label} />
    </section>`
}

const ModelStates = ({models}) => html`
  <ul class="cards">${models.map(model => html`
    <li key=${model.name}><a class="card-link" href=${address("models", model.name)}>
      <span class="name">${model.name}</span>
      <${StateBadge} state=${model.state} />
      <span class="dim">${model.provider ?? ""}</span>
      ${model.in_flight > 0 && html`<span class="dim">${t("models.in_flight", {count: model.in_flight})}</span>`}
    </a></li>`)}</ul>`
