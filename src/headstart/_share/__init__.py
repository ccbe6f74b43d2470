"""Sharing: send a model or a source to a hub, and fetch one, in the hub's conventions and as data only."""

from headstart._share._pull import pull
from headstart._share._push import push

__all__ = ["pull", "push"]
