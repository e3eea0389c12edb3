/** A chart over time: bars of one series. Screen readers get `label`, which says what it comes to. */
import {html, useEffect, useRef, useSignal} from "../core/html.js"
import {compact} from "../core/format.js"
import {language} from "../core/language.js"
import {script} from "../core/script.js"
import {theme} from "../core/theme.js"

const HEIGHT = 180 // pixels

/**
 * @param {{times: number[], values: (number | null)[], label: string, show?: (value: number) => string}} properties
 *   `times` in Unix seconds, ascending
 */
export function BarChart({times, values, label, show = compact}) {
  const box = useRef(null)
  const shade = useSignal(theme)
  const tongue = useSignal(language)
  useEffect(() => {
    let plot
    let gone = false
    const watch = new ResizeObserver(() => plot?.setSize({width: box.current.clientWidth, height: HEIGHT}))
    script("uplot").then(({uPlot}) => {
      if (gone) return
      plot = new uPlot(options(uPlot, box.current, show), [times, values], box.current)
      watch.observe(box.current)
    })
    return () => { gone = true; watch.disconnect(); plot?.destroy() }
  }, [times, values, shade, tongue])
  return html`<div class="chart" ref=${box} role="img" aria-label=${label} />`
}

function options(uPlot, box, show) {
  const style = getComputedStyle(document.documentElement)
  const colour = name => style.getPropertyValue(name).trim()
  const axis = {stroke: colour("--dim"), grid: {stroke: colour("--line"), width: 1}, ticks: {show: false}, font: "12px system-ui"}
  const day = new Intl.DateTimeFormat(language.peek() === "zh" ? "zh-CN" : "en", {month: "short", day: "numeric"})
  return {
    width: box.clientWidth,
    height: HEIGHT,
    legend: {show: false},
    cursor: {show: false},
    scales: {x: {time: true}, y: {range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1]}},
    axes: [
      {...axis, space: 80, grid: {show: false}, values: (_, ticks) => ticks.map(at => day.format(at * 1000))},
      {...axis, size: 60, values: (_, ticks) => ticks.map(show)},
    ],
    series: [{}, {fill: colour("--accent"), stroke: colour("--accent"), width: 0, points: {show: false},
      paths: uPlot.paths.bars({size: [0.7, 40]})}],
  }
}
