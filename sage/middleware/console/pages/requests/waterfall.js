/** The way of one call as bars: admitted, waited, connected, until the first byte, the stream; and the attempts that failed. */
import {duration, number} from "../../core/format.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"

/** Codes of errors that have words of their own. */
const WORDS = ["connect_failed", "connect_timeout", "read_timeout", "total_timeout", "upstream_broken", "upstream_closed", "upstream_failed",
  "upstream_credential_refused", "rate_limited", "overloaded", "model_unavailable", "unavailable", "client_left", "invalid_request", "shutting_down",
  "rights_revoked"]

const WAITS = ["queue", "load", "pause"]

/** Why an attempt ended, in words. */
export const reason = ({code, status}) => code && WORDS.includes(code) ? t(`ended.${code}`) : `${code ?? ""} ${status ?? ""}`.trim()

/** A short duration with its tenths of a millisecond. */
const fine = ms => ms < 0.05 ? "< 0.1 ms" : ms < 10 ? `${number(Math.round(ms * 10) / 10)} ms` : duration(ms)

/** The bars of a call: what each is, where it begins and how long it is, in milliseconds. `within`: it is a part of the bar below it. */
export function spansOf(call) {
  const spans = []
  let at = call.admitted_ms ?? 0
  if (call.admitted_ms !== null) spans.push({name: t("way.admit"), begin: 0, ms: call.admitted_ms})
  let attempts = 0
  let broke = false
  for (const step of call.steps) {
    const bad = step.kind === "attempt" || step.kind === "refused"
    const named = step.kind === "attempt" ? t("way.attempt", {number: (attempts += 1)}) : t(`way.${step.kind}`)
    const first = step.kind === "attempt" && call.first_token_ms !== null && call.first_token_ms > step.from_ms ? call.first_token_ms : null
    spans.push({name: named, begin: step.from_ms, ms: step.ms, bad, tone: WAITS.includes(step.kind) ? "busy" : "", within: step.kind === "connect", where: step.deployment, why: bad ? reason(step) : ""})
    if (first !== null) spans.push({name: t("way.stream"), begin: first, ms: step.from_ms + step.ms - first, within: true, bad})
    if (step.kind !== "connect") at = step.from_ms + step.ms
    broke = bad
  }
  if (broke) return spans
  const number = attempts > 0 ? ` (${t("way.attempt", {number: attempts + 1})})` : ""
  if (call.first_token_ms === null) return [...spans, {name: t("way.answer") + number, begin: at, ms: call.ms - at, where: call.deployment}]
  return [...spans,
    {name: t("way.first") + number, begin: at, ms: call.first_token_ms - at, where: call.deployment},
    {name: t("way.stream"), begin: call.first_token_ms, ms: call.ms - call.first_token_ms, tone: "second"}]
}

export function Waterfall({call}) {
  const whole = Math.max(call.ms, 0.001)
  const spans = spansOf(call)
  return html`
    <ul class="waterfall" aria-label=${t("requests.way")}>
      ${spans.map((span, index) => html`
        <li key=${index} class=${span.within ? "within" : ""}>
          <span class="name">${span.name}</span>
          <span class="lane"><span class=${`span ${span.bad ? "bad" : span.tone ?? ""}`} style=${{
            left: `${Math.min(99.5, span.begin / whole * 100)}%`, width: `${Math.max(0.5, Math.min(100, span.ms / whole * 100))}%`}} /></span>
          <span class="numeric">${fine(span.ms)}</span>
          ${(span.where || span.why) && html`<span class="more dim">${span.where}${span.where && span.why ? ": " : ""}${span.why && html`<span class="bad-text">${span.why}</span>`}</span>`}
        </li>`)}
    </ul>
    ${call.admitted_ms === null
      ? html`<p class="dim">${t("way.unknown")}</p>`
      : !call.stream && html`<p class="dim">${t("way.whole")}</p>`}`
}
