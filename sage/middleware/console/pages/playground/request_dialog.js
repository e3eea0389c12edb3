/** The request that the playground would make now, in other languages. */
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {Tabs} from "../../components/tabs.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"
import {chatBody} from "./conversation.js"
import {inCurl, inNode, inPython} from "./request_code.js"

/** What stands in the draft is asked last; without a draft it is the last question that was asked. */
export function RequestCode({chosen, options, turns, draft, onClose}) {
  const {question, pictures} = draft
  const drafted = {id: 0, question: question.trim() || (pictures.length > 0 ? "" : t("playground.example_question")), pictures, sides: [[]]}
  const isDrafted = question.trim() || pictures.length > 0 || turns.length === 0
  const asked = isDrafted ? [...turns, drafted] : [...turns.slice(0, -1), {...turns.at(-1), sides: [[]]}]
  const body = chatBody({turns: asked, side: 0, options, model: chosen[0]})
  const files = asked.flatMap(turn => turn.pictures)
  const tab = (name, text) => ({name, body: () => html`<${CodeBlock} language=${name} text=${text} />`})
  return html`
    <${Dialog} title=${t("playground.code")} onClose=${onClose}>
      <p class="dim">${t(files.length > 0 ? "playground.code_files" : "playground.code_key")}</p>
      <${Tabs} label=${t("playground.code")} tabs=${[
        tab("curl", inCurl(body, files)), tab("Python", inPython(body, files)), tab("Node", inNode(body, files))]} />
      <div class="actions"><button class="quiet" onClick=${onClose}>${t("action.close")}</button></div>
    <//>`
}
