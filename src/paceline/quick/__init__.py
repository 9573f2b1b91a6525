"""A minute's judgement of any server with OpenAI's interface: which share of requests keeps a budget, at which picture sizes.

Not here: profiles, controllers and Paceline's own hosts; a server is known by what it answers alone.
"""
