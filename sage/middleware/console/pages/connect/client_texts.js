/** What to paste where, for each client, true for this host. `tests/clients/test_connect_texts.py` runs programs by them. */
import {inCurl, inNode, inPython, quoted} from "../playground/request_code.js"

const QUESTION = "What is the capital of France?"

/** @param {{origin: string, key: string, model: string}} gateway */
export function clients({origin, key, model}) {
  const body = {model, messages: [{role: "user", content: QUESTION}]}
  const text = JSON.stringify // of JavaScript, Python and TOML alike
  const variables = values => Object.entries(values).map(([name, value]) => `export ${name}=${shell(value)}\n`).join("")
  return [
    {name: "curl", parts: [{file: "sh", text: inCurl(body, [], key)}]},
    {name: "Python", parts: [{file: "sh", text: "pip install openai\n"}, {file: "Python", text: inPython(body, [], key)}]},
    {name: "Node", parts: [{file: "sh", text: "npm install openai\n"}, {file: "ask.mjs", text: inNode(body, [], key)}]},
    {name: "Claude Code", parts: [{file: "sh", text: `${variables({
      ANTHROPIC_BASE_URL: origin,
      ANTHROPIC_AUTH_TOKEN: key,
      ANTHROPIC_MODEL: model,
      ANTHROPIC_DEFAULT_HAIKU_MODEL: model,
    })}claude\n`}]},
    {name: "Codex", parts: [{file: "~/.codex/config.toml", text: `model = ${text(model)}
model_provider = "sage"
web_search = "disabled"

[model_providers.sage]
name = "SAGE"
base_url = "${origin}/v1"
env_key = "SAGE_KEY"
wire_api = "responses"
`}, {file: "sh", text: `${variables({SAGE_KEY: key})}codex\n`}]},
    {name: "LangChain", parts: [{file: "sh", text: "pip install langchain-openai\n"}, {file: "Python", text: `from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="${origin}/v1", api_key=${text(key)}, model=${text(model)})
print(model.invoke(${text(QUESTION)}).content)
`}]},
    {name: "Open WebUI", parts: [{file: "sh", text: `pip install open-webui
${variables({
      OPENAI_API_BASE_URL: `${origin}/v1`,
      OPENAI_API_KEY: key,
      ENABLE_OLLAMA_API: "false",
    })}open-webui serve --port 3000\n`}]},
  ]
}

/** A word of a shell. */
const shell = word => /^[\w./:@-]+$/.test(word) ? word : quoted(word)
