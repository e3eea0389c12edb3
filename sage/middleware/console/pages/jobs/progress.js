/** How far a job is, as a bar; and how long it has taken. */
import {Meter} from "../../components/meter.js"
import {duration, number} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

export const ENDED = ["succeeded", "failed", "dead", "cancelled"]
export const hasEnded = job => ENDED.includes(job.state)

/** Milliseconds that a job has run so far, or had; `null` if it has not begun. */
export const took = ({started_at: begin, finished_at: end}) => begin === null ? null : ((end ?? Date.now() / 1000) - begin) * 1000

export function Progress({job: {progress, id, state}}) {
  const {total, done, failed, seconds_left: left} = progress
  if (!total) return state === "running" ? html`<progress class="short" aria-label=${id} />` : done ? number(done) : "–"
  return html`<span class="progress"><${Meter} value=${done + failed} most=${total} label=${id} tone=${failed ? "busy" : "good"} />
    <span class="numeric">${number(done)} / ${number(total)}</span>
    ${failed > 0 && html`<span class="bad-text">${t("jobs.failed", {count: number(failed)})}</span>`}
    ${left !== null && state === "running" && html`<span class="dim">${t("jobs.left", {time: duration(left * 1000)})}</span>`}</span>`
}
