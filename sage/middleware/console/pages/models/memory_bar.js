/** The memory that engines of the gateway share: who takes how much, and what is free. */
import {bytes} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

const TONES = 5

/** @param {{memory: {budget: number | null, used: number, waiting: number, machine: number | null, engines: any[]}}} properties */
export function MemoryBar({memory}) {
  const {budget, used, machine, waiting, engines} = memory
  const whole = budget ?? machine
  if (!whole || (engines.length === 0 && budget === null)) return null
  const others = used - engines.reduce((sum, each) => sum + each.memory, 0)
  /** @type {{name: string, size: number, pin?: boolean, state?: string}[]} */
  const parts = [...engines.map(each => ({name: each.model, size: each.memory, pin: each.pin, state: each.state})),
    ...(others > 0 ? [{name: t("models.others"), size: others}] : [])]
  const share = size => `${Math.min(100, size / whole * 100)}%`
  const free = Math.max(0, whole - used)
  return html`
    <section class="memory-bar" aria-label=${t("models.memory")}>
      <div class="memory-head"><strong>${t("models.memory")}</strong>
        <span>${t(budget === null ? "models.of_machine" : "models.of_budget", {used: bytes(used), whole: bytes(whole)})}</span>
        ${waiting > 0 && html`<span class="badge busy">${t("models.wait_for_room", {count: waiting})}</span>`}</div>
      <div class="memory-parts" role="img" aria-label=${t("models.free", {size: bytes(free)})}>
        ${parts.map(({name, size}, index) => html`<span key=${name} class=${`tone-${index % TONES}`} style=${{width: share(size)}} title=${`${name} · ${bytes(size)}`} />`)}</div>
      <ul class="memory-legend">
        ${parts.map(({name, size, pin, state}, index) => html`
          <li key=${name}><i class=${`tone-${index % TONES}`} aria-hidden="true" />${name} <span class="dim">${bytes(size)}${pin ? ` · ${t("models.pinned")}` : ""}${state && state !== "ready" ? ` · ${t(`state.${state}`)}` : ""}</span></li>`)}
        <li><i class="tone-free" aria-hidden="true" />${t("models.free", {size: bytes(free)})}</li>
      </ul>
    </section>`
}
