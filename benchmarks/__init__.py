"""Benchmarks: one runnable module per question. `README.md` says what the numbers mean.

Floor plan, from the ground up; a module imports only from those above it:

* `measure`: CPU time, memory, medians, quantiles, cores. Imports nothing of ours.
* `report`: figures, their targets, the table, the JSON, the progress bar.
* `plan`: how much of everything a run does.
* `agents`: the deterministic agents that are hosted.
* `bare`: what the same HTTP stack does with a route that does nothing, or only runs the agent.
* `server`: the subprocess that serves one of them; stops when its parent goes away.
* `processes`: starts and stops such subprocesses.
* `load`: a lean HTTP/1.1 client, and conversations over it.
* `hosted`: runtimes in this process, and conversations with them.
* `rounds`: interleaved rounds of several subjects, and their ratios.
* `over_http`, `streams`, `stored_runs`, `in_process`, `background`, `commits`, `history`, `sizes`, `memory`,
  `burst`: the scenarios.
* `conversations`: the command line: ``python -m benchmarks.conversations --help``.
"""
