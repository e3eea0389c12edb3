/** What to paste where, for each client, true for this host. */

/** @param {{origin: string, key: string, model: string}} gateway */
export const clients = ({origin, key, model}) => [
  {name: "curl", parts: [{file: "curl", text: `curl ${origin}/v1/chat/completions \\
  -H "Authorization: Bearer ${key}" -H 'Content-Type: application/json' \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
`}]},
  {name: "Python", parts: [{file: "pip install openai", text: `from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key="${key}")
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
)
print(answer.choices[0].message.content)
`}]},
  {name: "Node", parts: [{file: "npm install openai", text: `import OpenAI from "openai"

const client = new OpenAI({baseURL: "${origin}/v1", apiKey: "${key}"})
const answer = await client.chat.completions.create({
  model: "${model}",
  messages: [{role: "user", content: "What is the capital of France?"}],
})
console.log(answer.choices[0].message.content)
`}]},
  {name: "Claude Code", parts: [{file: "sh", text: `export ANTHROPIC_BASE_URL=${origin}
export ANTHROPIC_AUTH_TOKEN=${key}
export ANTHROPIC_MODEL=${model}
claude
`}]},
  {name: "Codex", parts: [{file: "~/.codex/config.toml", text: `model = "${model}"
model_provider = "sage"
web_search = "disabled"

[model_providers.sage]
name = "SAGE"
base_url = "${origin}/v1"
env_key = "SAGE_KEY"
wire_api = "responses"
`}, {file: "sh", text: `export SAGE_KEY=${key}
codex
`}]},
  {name: "LangChain", parts: [{file: "pip install langchain-openai", text: `from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url="${origin}/v1", api_key="${key}", model="${model}")
print(model.invoke("What is the capital of France?").content)
`}]},
  {name: "Open WebUI", parts: [{file: "sh", text: `export OPENAI_API_BASE_URL=${origin}/v1
export OPENAI_API_KEY=${key}
export ENABLE_OLLAMA_API=false
open-webui serve
`}]},
]
