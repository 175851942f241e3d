"""An assistant in a process of its own: `python mcp_client.py URL`, with calls as JSON in its input.

It prints the tools, and for each call whether it failed, its texts, and how often it heard of the progress.
"""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def main(url: str, calls: list) -> None:
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: [tool.description, tool.inputSchema] for tool in (await session.list_tools()).tools}
        answers = []
        for name, arguments in calls:
            heard = []

            async def hear(progress, total, message, heard=heard):
                heard.append(message)

            result = await session.call_tool(name, arguments, progress_callback=hear)
            answers.append([result.isError, [part.text for part in result.content], len(heard)])
    print(json.dumps({"tools": tools, "answers": answers}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
