/** Text that can be copied with one click. */
import {html, useState} from "../core/html.js"
import {t} from "../core/language.js"
import {Icon} from "./icon.js"

export function CopyButton({text, label}) {
  const [copied, setCopied] = useState(false)
  const copy = async () => {
    await write(text)
    setCopied(true)
    setTimeout(() => setCopied(false), 1500)
  }
  return html`
    <button class="quiet small" onClick=${copy} aria-label=${label ?? t("action.copy")}>
      <${Icon} name="copy" /> <span aria-live="polite">${copied ? t("state.copied") : t("action.copy")}</span>
    </button>`
}

/** Clipboards need a secure origin: over plain HTTP from another machine the old way is left. */
async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text)
  const area = document.createElement("textarea")
  area.value = text
  document.body.append(area)
  area.select()
  document.execCommand("copy")
  area.remove()
}

export const CodeBlock = ({text, language}) => html`
  <div class="code-block">
    <div class="code-bar"><span class="dim">${language}</span><${CopyButton} text=${text} /></div>
    <pre tabindex="0"><code>${text}</code></pre>
  </div>`
