"""Drives `approval_workflow.py` with an OpenAI SDK; nothing here is of afactors.

    python -m afactors examples.approval_workflow:make_desk       (in another terminal)
    python examples/approval_client.py [yes|no] [BASE_URL]        (yes, and http://127.0.0.1:8000/v1 otherwise)

The answer may as well come days later, and after a restart of the server.
"""

import json
import sys
from uuid import uuid4

from openai import ConflictError, OpenAI
from openai.types.responses import ResponseFunctionToolCall

approved = "no" not in sys.argv[1:2]
client = OpenAI(base_url=sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1", api_key="none")
conversation = f"conv_{uuid4().hex}"


def tell(text: str) -> None:
    """Send a message, and say what is answered."""
    print(f"{text}:", client.responses.create(model="any", conversation=conversation, input=text).output_text)


tell("refund order-6 20")

# A question is a call of `request_info`, in the response's output; its arguments say what is asked.
asked = client.responses.create(model="any", conversation=conversation, input="refund order-7 120")
question = next(item for item in asked.output if isinstance(item, ResponseFunctionToolCall))
told = json.loads(question.arguments)
print(f"{question.name}: {told['data']}, to be answered by a {told['response_schema']['type']}")

# The conversation waits for its answer, and for nothing else.
try:
    tell("refund order-8 5")
except ConflictError as error:
    print("error:", error.status_code, error.code)

# The answer is the call's output: JSON, of the type that was asked for. It may come from anywhere, at any time (a
# month, by default), by the conversation's name or by `previous_response_id`.
output = json.dumps(approved)
answer = client.responses.create(
    model="any",
    conversation=conversation,
    input=[{"type": "function_call_output", "call_id": question.call_id, "output": output}],
)
print(f"{output}:", answer.output_text)

tell("refund order-8 5")
