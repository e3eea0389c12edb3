/** A state in a word, with a colour that is never the only sign. */
import {html} from "../core/html.js"
import {t} from "../core/language.js"

const MOODS = {ready: "good", unloaded: "calm", loading: "busy", draining: "busy", failed: "bad", unknown: "bad",
  closed: "good", open: "bad", half_open: "busy"}

export const StateBadge = ({state}) => html`
  <span class=${`badge ${MOODS[state] ?? "calm"}`}>${t(`state.${state}`)}</span>`
