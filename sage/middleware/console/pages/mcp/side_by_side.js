/** Two texts side by side, with the lines in which they differ marked. */
import {html, useMemo} from "../../core/html.js"
import {t} from "../../core/language.js"

const MOST = 1500 // lines: beyond, all are marked where their places differ

/**
 * Pairs of lines: the same on both sides, or of one side alone (null on the other).
 * @param {string} before
 * @param {string} after
 * @returns {[string | null, string | null][]}
 */
export function alignedLines(before, after) {
  const left = before.split("\n")
  const right = after.split("\n")
  if (left.length > MOST || right.length > MOST) {
    return Array.from({length: Math.max(left.length, right.length)}, (_, index) => [left[index] ?? null, right[index] ?? null])
  }
  const common = longestCommon(left, right)
  /** @type {[string | null, string | null][]} */
  const pairs = []
  let from = 0
  let to = 0
  while (from < left.length || to < right.length) {
    if (from < left.length && to < right.length && left[from] === right[to]) pairs.push([left[from++], right[to++]])
    else if (to >= right.length || (from < left.length && common[from + 1][to] >= common[from][to + 1])) pairs.push([left[from++], null])
    else pairs.push([null, right[to++]])
  }
  return beside(pairs)
}

/** Lines that went, and those that came in their place, in the same rows. */
function beside(pairs) {
  /** @type {[string | null, string | null][]} */
  const rows = []
  let gone = 0 // rows before the present one that have only their left side
  for (const [old, now] of pairs) {
    if (old === null && gone > 0) { rows[rows.length - gone][1] = now; gone -= 1 } else {
      rows.push([old, now])
      gone = now === null ? gone + 1 : 0
    }
  }
  return rows
}

/** How many lines the rests of both have in common, by where the rests begin. */
function longestCommon(left, right) {
  const common = Array.from({length: left.length + 1}, () => new Uint16Array(right.length + 1))
  for (let from = left.length - 1; from >= 0; from -= 1) {
    for (let to = right.length - 1; to >= 0; to -= 1) {
      common[from][to] = left[from] === right[to] ? common[from + 1][to + 1] + 1 : Math.max(common[from + 1][to], common[from][to + 1])
    }
  }
  return common
}

export function SideBySide({before, after}) {
  const pairs = useMemo(() => alignedLines(before, after), [before, after])
  const line = (own, other, Tag) => own === other || own === null ? html`<code>${own ?? ""}</code>` : html`<${Tag}>${own}<//>`
  return html`
    <div class="side-by-side" role="region" aria-label=${t("mcp.differences")} tabindex="0">
      <table><thead><tr><th scope="col">${t("mcp.as_accepted")}</th><th scope="col">${t("mcp.offered_now")}</th></tr></thead>
        <tbody>${pairs.map(([old, now], index) => html`
          <tr key=${index}><td>${line(old, now, "del")}</td><td>${line(now, old, "ins")}</td></tr>`)}</tbody></table>
    </div>`
}
