/** The time that a list is about: one of some periods until now, or from one day to another. */
import {html, useMemo} from "../core/html.js"
import {t} from "../core/language.js"
import {ChoiceFilter} from "./filter_bar.js"

const HOUR = 3600
/** Seconds of the periods until now. */
export const PERIODS = {hour: HOUR, day: 24 * HOUR, week: 7 * 24 * HOUR, month: 30 * 24 * HOUR, quarter: 90 * 24 * HOUR}
const CHOSEN = "chosen"

/**
 * @param {object} properties
 * @param {{period: string, from: string, to: string}} properties.value `from` and `to` are dates where the period is `chosen`
 * @param {(changes: Record<string, string>) => void} properties.onChange
 * @param {string[]} [properties.offered]
 */
export const PeriodFilter = ({value, onChange, offered = Object.keys(PERIODS)}) => html`
  <${ChoiceFilter} label=${t("period.label")} value=${value.period} onChange=${period => onChange({period, ...(period === CHOSEN ? {} : {from: "", to: ""})})}
    options=${[...offered, CHOSEN].map(each => [each, t(`period.${each}`)])} />
  ${value.period === CHOSEN && ["from", "to"].map(name => html`
    <label key=${name}><span>${t(`period.${name}`)}</span>
      <input type="date" value=${value[name]} onChange=${event => onChange({[name]: event.target.value})} /></label>`)}`

export const zone = () => Intl.DateTimeFormat().resolvedOptions().timeZone

/**
 * `from`, `to` and `tz` as routes take them; another `turn` moves a period until now on.
 * @param {{period: string, from: string, to: string}} value
 */
export function usePeriod({period, from, to}, turn = 0) {
  return useMemo(() => {
    if (period === CHOSEN) return {from, to, tz: zone()}
    return {from: Math.floor(Date.now() / 1000) - PERIODS[period], to: "", tz: zone()}
  }, [period, from, to, turn])
}
