/** Charts over time. Screen readers get `label`, which says what one comes to. */
import {html, useEffect, useRef, useSignal} from "../core/html.js"
import {compact, dayOf} from "../core/format.js"
import {language} from "../core/language.js"
import {script} from "../core/script.js"
import {theme} from "../core/theme.js"

const HEIGHT = 180 // pixels

/**
 * @param {object} properties
 * @param {number[]} properties.times Unix seconds, ascending
 * @param {(number | null)[]} properties.values
 * @param {string} properties.label
 * @param {boolean} [properties.line] a line in place of bars
 * @param {(value: number) => string} [properties.show] how values are written
 * @param {(seconds: number) => string} [properties.showTime]
 */
export function TimeChart({times, values, label, line = false, show = compact, showTime = dayOf}) {
  const box = useRef(null)
  const plot = useRef(null)
  const shade = useSignal(theme)
  const tongue = useSignal(language)
  const data = useRef([])
  data.current = [times, values]
  useEffect(() => {
    let gone = false
    const watch = new ResizeObserver(() => plot.current?.setSize({width: box.current.clientWidth, height: HEIGHT}))
    script("uplot").then(({uPlot}) => {
      if (gone) return
      plot.current = new uPlot(options(uPlot, box.current, {line, show, showTime}), data.current, box.current)
      watch.observe(box.current)
    })
    return () => { gone = true; watch.disconnect(); plot.current?.destroy(); plot.current = null }
  }, [shade, tongue])
  useEffect(() => { plot.current?.setData(data.current) }, [times, values])
  return html`<div class="chart" ref=${box} role="img" aria-label=${label} />`
}

function options(uPlot, box, {line, show, showTime}) {
  const style = getComputedStyle(document.documentElement)
  const colour = name => style.getPropertyValue(name).trim()
  const axis = {stroke: colour("--dim"), grid: {stroke: colour("--line"), width: 1}, ticks: {show: false}, font: "12px system-ui"}
  const drawn = line ? {width: 2} : {width: 0, fill: colour("--accent"), paths: uPlot.paths.bars({size: [0.7, 40]})}
  return {
    width: box.clientWidth,
    height: HEIGHT,
    legend: {show: false},
    cursor: {show: false},
    scales: {x: {time: true}, y: {range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1]}},
    axes: [
      {...axis, space: 80, grid: {show: false}, values: (_, ticks) => ticks.map(showTime)},
      {...axis, size: 60, values: (_, ticks) => ticks.map(show)},
    ],
    series: [{}, {stroke: colour("--accent"), points: {show: false}, ...drawn}],
  }
}
