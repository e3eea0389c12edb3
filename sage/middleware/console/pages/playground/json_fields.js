/** Fields whose text is JSON, and what is wrong with it. */
import {t} from "../../core/language.js"

export const TOOL_EXAMPLE = `[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "The weather in a city now.",
      "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"]
      }
    }
  }
]`

/** What is wrong with the text of a field; undefined if nothing is. */
export function faultOf(name, text) {
  if (!text.trim()) return name === "schema" ? t("playground.no_schema") : undefined
  try {
    const value = JSON.parse(text)
    if (name === "tools" && !Array.isArray(value)) return t("playground.no_list")
    if (name === "schema" && (typeof value !== "object" || Array.isArray(value) || !value)) return t("playground.no_object")
    return undefined
  } catch (error) {
    return t("playground.no_json", {fault: error.message})
  }
}

/** Whether a request can be made of the options. */
export const isComplete = options =>
  faultOf("tools", options.tools) === undefined && (options.format !== "json_schema" || faultOf("schema", options.schema) === undefined)
