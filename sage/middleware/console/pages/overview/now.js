/** What happens now, second by second, as the gateway tells it (`/metrics/live`). */
import {TimeChart} from "../../components/chart.js"
import {Failure} from "../../components/notice.js"
import {follow} from "../../core/api.js"
import {clockTime, duration, number} from "../../core/format.js"
import {html, useEffect, useMemo, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

const KEPT = 120 // seconds that are drawn
const RECENT = 10 // seconds that the figures are of

export function Now() {
  const [seconds, setSeconds] = useState([])
  const [error, setError] = useState(undefined)
  useEffect(() => {
    const stop = new AbortController()
    const run = async () => {
      for await (const second of follow("/metrics/live", stop.signal)) {
        setSeconds(before => [...before, second].slice(-KEPT))
      }
    }
    run().catch(failed => stop.signal.aborted || setError(failed))
    return () => stop.abort()
  }, [])
  const [times, values] = useMemo(() => [seconds.map(each => each.time), seconds.map(rate("requests"))], [seconds])
  if (error) return html`<${Failure} error=${error} />`
  const recent = seconds.slice(-RECENT)
  const mean = name => recent.reduce((sum, each) => sum + rate(name)(each), 0) / Math.max(1, recent.length)
  const slowest = (kind, which) => {
    const known = recent.map(each => each[kind]?.[which]).filter(each => each !== undefined)
    return known.length ? duration(Math.max(...known) * 1000) : "–"
  }
  return html`
    <section aria-labelledby="now"><h2 id="now">${t("overview.now")}</h2>
      <dl class="tiles">
        <div><dt>${t("overview.per_second")}</dt><dd>${shown(mean("requests"))}</dd></div>
        <div><dt>${t("overview.errors")}</dt><dd>${shown(mean("failed"))}</dd></div>
        <div><dt>${t("overview.in_flight")}</dt><dd>${number(recent.at(-1)?.in_flight ?? 0)}</dd></div>
        <div><dt>${t("overview.tokens_per_second")}</dt><dd>${shown(mean("prompt_tokens") + mean("completion_tokens"))}</dd></div>
        <div><dt>${t("overview.half")}</dt><dd>${slowest("duration", "p50")}</dd></div>
        <div><dt>${t("overview.most")}</dt><dd>${slowest("duration", "p95")}</dd></div>
        <div><dt>${t("overview.first")}</dt><dd>${slowest("first_token", "p50")}</dd></div>
      </dl>
      <${TimeChart} line=${true} times=${times} values=${values} label=${t("overview.now_label")} showTime=${clockTime} />
    </section>`
}

const rate = name => second => second[name] / second.seconds
const shown = value => number(Math.round(value * 10) / 10)
