"""What an OpenAI SDK does with a server of ours; nothing here is of afactors.

    python -m afactors                            (in another terminal)
    python examples/openai_client.py [BASE_URL]   (http://127.0.0.1:8000/v1 otherwise)

OPENAI_API_KEY is sent, if there is one; the demonstration server wants none.
"""

import json
import os
import sys
from uuid import uuid4

from openai import BadRequestError, OpenAI
from openai.types.responses import FunctionToolParam

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))

# A conversation: a name of your choice, and a head that moves. Whoever knows the name has the conversation.
conversation = f"conv_{uuid4().hex}"
client.responses.create(model="any", input="My name is Ada.", conversation=conversation)
answer = client.responses.create(model="any", input="What is my name?", conversation=conversation)
print("conversation:", answer.output_text)

# A response id: a point that never moves. Two calls from one point are two branches.
start = client.responses.create(model="any", input="My name is Grace.")
left = client.responses.create(model="any", input="Call me Admiral.", previous_response_id=start.id)
right = client.responses.create(model="any", input="What is my name?", previous_response_id=start.id)
print("right branch:", right.output_text)
again = client.responses.create(model="any", input="What is my name?", previous_response_id=left.id)
print("left branch:", again.output_text)

# Streaming. The last event is sent when the turn is on disk; what comes before it is provisional.
with client.responses.stream(model="any", input="count to 5", conversation=conversation) as events:
    for event in events:
        if event.type == "response.output_text.delta":
            print(event.delta, end="|")
    print("", events.get_final_response().status)

# A tool of the client's: the agent's call comes back as an item, and its output is the next turn's input.
weather: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
asked = client.responses.create(model="any", input="What is the weather in Oslo?", tools=[weather])
call = asked.output[0]
assert call.type == "function_call"  # noqa: S101 - this is what the SDK gives
print("call:", call.name, json.loads(call.arguments))
told = client.responses.create(
    model="any",
    previous_response_id=asked.id,
    input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}],
    tools=[weather],
)
print("with its output:", told.output_text)

# Errors are the SDK's own exceptions.
try:
    client.responses.create(model="any", input="hello", previous_response_id="resp_of_nobody")
except BadRequestError as error:
    print("error:", error.status_code, error.code)
