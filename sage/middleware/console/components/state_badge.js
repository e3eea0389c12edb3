/** A state in a word, with a colour that is never the only sign. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"

const MOODS = {ready: "good", unloaded: "calm", loading: "busy", draining: "busy", failed: "bad", unknown: "bad",
  closed: "good", open: "bad", half_open: "busy", running: "busy", queued: "calm", cancelling: "busy", succeeded: "good",
  dead: "bad", cancelled: "calm", accepted: "good", held: "busy", changed: "bad", new: "busy", gone: "calm", up: "good",
  down: "bad", connecting: "busy", completed: "good", validating: "calm", in_progress: "busy", finalizing: "busy",
  expired: "bad"}

export const StateBadge = ({state, tone = undefined}) => html`
  <span class=${`badge ${tone ?? MOODS[state] ?? "calm"}`}>${t(`state.${state}`)}</span>`
