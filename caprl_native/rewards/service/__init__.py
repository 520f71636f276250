"""Rewards over HTTP: the server (tools/reward_server.py), and what its client shares with it.

    client.py, batching in terms/service.py  ->  app.py  ->  pool.py  ->  worker.py (actors.py)

`app` reads and answers requests, `pool` gives their captions to workers and redoes what a dead one
left, a worker scores them with the reward terms that a training run would use. What travels is said
in `protocol.py` and `question_text.py`, for both sides.
"""
