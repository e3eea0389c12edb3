/** Which models are asked, with what, and the same request in other languages. */
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {Tabs} from "../../components/tabs.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {inCurl, inNode, inPython} from "./request_code.js"
import {chatBody} from "./call.js"

export function Options({names, chosen, setChosen, options, setOptions, turns, draft}) {
  const [showing, setShowing] = useState(false)
  const set = name => event => setOptions({...options, [name]: event.target.value})
  const choose = side => event => setChosen(chosen.map((name, index) => index === side ? event.target.value : name))
  return html`
    <div class="options">
      ${chosen.map((name, side) => html`
        <${Field} key=${side} label=${t(side === 0 ? "playground.model" : "playground.second")}>${field => html`
          <select ...${field} value=${name} onChange=${choose(side)}>
            ${names.map(each => html`<option key=${each} value=${each}>${each}</option>`)}</select>`}<//>`)}
      <button class="quiet" onClick=${() => setChosen(chosen.length === 1 ? [chosen[0], names.find(name => name !== chosen[0]) ?? chosen[0]] : chosen.slice(0, 1))}>
        ${t(chosen.length === 1 ? "playground.compare" : "playground.one")}</button>
      <${Field} label=${t("playground.temperature")}>${field => html`
        <input ...${field} type="number" min="0" max="2" step="0.1" value=${options.temperature} onInput=${set("temperature")} />`}<//>
      <${Field} label=${t("playground.max_tokens")}>${field => html`
        <input ...${field} type="number" min="1" step="1" value=${options.max_tokens} onInput=${set("max_tokens")} />`}<//>
      <button class="quiet" onClick=${() => setShowing(true)}>${t("playground.code")}</button>
    </div>
    <details class="system"><summary>${t("playground.system")}</summary>
      <label class="sr-only" for="system">${t("playground.system")}</label>
      <textarea id="system" rows="3" value=${options.system} onInput=${set("system")} /></details>
    ${showing && html`<${Code} body=${chatBody({earlier: turns, turn: {question: draft || "…", answers: chosen.map(model => ({model}))}, side: 0, options})}
      onClose=${() => setShowing(false)} />`}`
}

const Code = ({body, onClose}) => html`
  <${Dialog} title=${t("playground.code")} onClose=${onClose}>
    <${Tabs} label=${t("playground.code")} tabs=${[
      {name: "curl", body: () => html`<${CodeBlock} language="curl" text=${inCurl(body)} />`},
      {name: "Python", body: () => html`<${CodeBlock} language="Python" text=${inPython(body)} />`},
      {name: "Node", body: () => html`<${CodeBlock} language="Node" text=${inNode(body)} />`},
    ]} />
    <div class="actions"><button class="quiet" onClick=${onClose}>${t("action.close")}</button></div>
  <//>`
