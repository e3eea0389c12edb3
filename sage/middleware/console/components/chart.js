/** Charts over time. Screen readers get `label`, which says what one comes to. */
import {html, useEffect, useRef, useSignal, useState} from "../core/html.js"
import {compact, dayOf} from "../core/format.js"
import {language} from "../core/language.js"
import {script} from "../core/script.js"
import {theme} from "../core/theme.js"

const HEIGHT = 180 // pixels

/** @typedef {{label: string, values: (number | null)[], tone?: "accent" | "second" | "third" | "bad" | "busy"}} Series */

/**
 * @param {object} properties
 * @param {number[]} properties.times Unix seconds, ascending
 * @param {(number | null)[]} [properties.values] the values of the only series
 * @param {Series[]} [properties.series] several, with a legend that shows the values under the pointer
 * @param {string} properties.label
 * @param {boolean} [properties.line] lines in place of bars; several series are always lines
 * @param {(value: number) => string} [properties.show] how values are written
 * @param {(seconds: number) => string} [properties.showTime]
 */
export function TimeChart({times, values, series, label, line = false, show = compact, showTime = dayOf}) {
  const box = useRef(null)
  const plot = useRef(null)
  const shade = useSignal(theme)
  const tongue = useSignal(language)
  const [at, setAt] = useState(/** @type {number | null} */ (null))
  const all = series ?? [{label: "", values: values ?? [], tone: "accent"}]
  const data = useRef([])
  data.current = [times, ...all.map(each => each.values)]
  const tones = all.map(each => each.tone ?? "accent").join(" ")
  useEffect(() => {
    let gone = false
    const watch = new ResizeObserver(() => plot.current?.setSize({width: box.current.clientWidth, height: HEIGHT}))
    script("uplot").then(({uPlot}) => {
      if (gone) return
      plot.current = new uPlot(options(uPlot, box.current, {tones: tones.split(" "), line: line || all.length > 1, show, showTime, setAt}),
        data.current, box.current)
      watch.observe(box.current)
    })
    return () => { gone = true; watch.disconnect(); plot.current?.destroy(); plot.current = null }
  }, [shade, tongue, tones])
  useEffect(() => { plot.current?.setData(data.current) }, [times, ...all.map(each => each.values)])
  return html`
    <div class="chart">
      <${Legend} all=${all} at=${at} times=${times} show=${show} showTime=${showTime} />
      <div ref=${box} role="img" aria-label=${label} />
    </div>`
}

const Legend = ({all, at, times, show, showTime}) => html`
  <ul class="legend" aria-hidden="true">
    ${all.map(({label, tone, values}) => html`
      <li key=${label}>${label && html`<span class=${`dot ${tone ?? ""}`} />`}${label}
        ${at !== null && html`<b>${values[at] === null || values[at] === undefined ? "–" : show(values[at])}</b>`}</li>`)}
    ${at !== null && times[at] !== undefined && html`<li>${showTime(times[at])}</li>`}
  </ul>`

function options(uPlot, box, {tones, line, show, showTime, setAt}) {
  const style = getComputedStyle(document.documentElement)
  const colour = name => style.getPropertyValue(`--${name}`).trim()
  const axis = {stroke: colour("dim"), grid: {stroke: colour("line"), width: 1}, ticks: {show: false}, font: "12px system-ui"}
  const drawn = tone => line
    ? {width: 2, ...(tones.length === 1 ? {fill: `${colour(tone)}1f`} : {})}
    : {width: 0, fill: colour(tone), paths: uPlot.paths.bars({size: [0.7, 40], radius: 0.15})}
  return {
    width: box.clientWidth,
    height: HEIGHT,
    legend: {show: false},
    cursor: {y: false, points: {show: line}, drag: {x: false, y: false}},
    hooks: {setCursor: [plot => setAt(plot.cursor.idx ?? null)]},
    scales: {x: {time: true}, y: {range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1]}},
    axes: [
      {...axis, space: 80, size: 32, grid: {show: false}, values: (_, ticks) => ticks.map(showTime)},
      {...axis, size: 60, values: (_, ticks) => ticks.map(show)},
    ],
    series: [{}, ...tones.map(tone => ({stroke: colour(tone), points: {show: false}, spanGaps: false, ...drawn(tone)}))],
  }
}
