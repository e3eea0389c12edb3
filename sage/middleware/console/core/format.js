/** Numbers, money and times as people read them, in the user's language and time zone. */
import {language} from "./language.js"

const made = new Map()

function formatter(kind, options) {
  const key = `${language.peek()} ${kind.name} ${JSON.stringify(options)}`
  if (!made.has(key)) made.set(key, new kind(language.peek() === "zh" ? "zh-CN" : "en", options))
  return made.get(key)
}

export const number = value => formatter(Intl.NumberFormat, {maximumFractionDigits: 2}).format(value)
export const compact = value =>
  formatter(Intl.NumberFormat, {notation: "compact", maximumFractionDigits: 1}).format(value)

/** Dollars; small sums keep their first digits. */
export function money(value) {
  if (value === null || value === undefined) return "–"
  const digits = value !== 0 && Math.abs(value) < 0.01 ? {maximumSignificantDigits: 2} : {maximumFractionDigits: 2}
  return formatter(Intl.NumberFormat, {style: "currency", currency: "USD", currencyDisplay: "narrowSymbol", ...digits})
    .format(value)
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"]

/** A number of bytes with its unit. */
export function bytes(value) {
  if (value === null || value === undefined) return "–"
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10))
  return `${number(Math.round(value / 1024 ** power * 10) / 10)} ${UNITS[power]}`
}

/** A duration in milliseconds, in ms or s. */
export const duration = ms =>
  ms === null || ms === undefined ? "–" : ms < 1000 ? `${Math.round(ms)} ms` : `${number(Math.round(ms / 100) / 10)} s`

/** The local time of Unix seconds, to the second. */
export const exactTime = seconds =>
  formatter(Intl.DateTimeFormat, {dateStyle: "medium", timeStyle: "medium"}).format(seconds * 1000)

/** The day of Unix seconds, short. */
export const dayOf = seconds => formatter(Intl.DateTimeFormat, {month: "short", day: "numeric"}).format(seconds * 1000)

/** The local time of day of Unix seconds. */
export const clockTime = seconds => formatter(Intl.DateTimeFormat, {timeStyle: "medium"}).format(seconds * 1000)

/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const STEPS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]

/** How long ago Unix seconds are, or how long until then. */
export function relativeTime(seconds) {
  const apart = seconds - Date.now() / 1000
  const [unit, size] = STEPS.find(([, size]) => Math.abs(apart) >= size) ?? STEPS[3]
  return formatter(Intl.RelativeTimeFormat, {numeric: "auto"}).format(Math.round(apart / size), unit)
}
