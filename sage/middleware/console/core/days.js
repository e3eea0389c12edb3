/** Days of the browser's time zone. */

const name = day => new Intl.DateTimeFormat("en-CA").format(day) // YYYY-MM-DD

const MOST_DAYS = 800

/** `rows` with one for each day from `from` until before `to` (Unix seconds), also for those without a call. */
export function fillDays(rows, from, to) {
  const known = Object.fromEntries(rows.map(row => [row.day, row]))
  const first = new Date(from * 1000)
  const all = []
  for (let count = 0; count < MOST_DAYS; count += 1) {
    const day = new Date(first.getFullYear(), first.getMonth(), first.getDate() + count)
    if (day.getTime() >= to * 1000) break
    const none = {day: name(day), requests: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0, cost: 0}
    all.push({...none, ...known[name(day)], at: day.getTime() / 1000})
  }
  return all
}
