/** The last days, in the browser's time zone: the path that asks for their usage, and a row for each of them. */

const name = day => new Intl.DateTimeFormat("en-CA").format(day) // YYYY-MM-DD

/** The day that is `days` before today. */
function before(days) {
  const today = new Date()
  return new Date(today.getFullYear(), today.getMonth(), today.getDate() - days)
}

/** The path of the sums of the last `days` days, today among them. */
export function lastDays(by, days) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone
  return `/usage?by=${by}&from=${name(before(days - 1))}&tz=${encodeURIComponent(zone)}`
}

/** `rows` with one for each of the last `days` days, also for those without a call; `at` is its start in Unix seconds. */
export function everyDay(rows, days) {
  const known = Object.fromEntries(rows.map(row => [row.day, row]))
  return Array.from({length: days}, (_, index) => {
    const day = before(days - 1 - index)
    const none = {day: name(day), requests: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0, cost: 0}
    return {...none, ...known[name(day)], at: day.getTime() / 1000}
  })
}
