"""A recommender on embeddings, in a file of its own: `python examples/recommender.py [FILE]`.

People and films have hidden tastes; the net (neural collaborative filtering) learns them from ratings. The saved file
ranks every film for a person in one call, whatever their number, without torch.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

import lowbit

PEOPLE, FILMS, TASTES = 300, 500, 4


class Recommender(nn.Module):
    """user, item int64 [N] -> rating float32 [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(PEOPLE, 32), nn.Embedding(FILMS, 32)
        self.deep = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64 + 32, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, v = self.user(user), self.item(item)
        deep = self.deep(torch.cat([u, v], dim=1))
        rating: Tensor = self.head(torch.cat([deep, u * v], dim=1)).squeeze(1)
        return rating


def main(path: str = "recommender.lowbit") -> None:
    """Learn the ratings, convert, rank."""
    torch.manual_seed(0)
    tastes, genres = torch.randn(PEOPLE, TASTES), torch.randn(FILMS, TASTES)
    truth = tastes @ genres.T / TASTES**0.5
    user, item = torch.randint(0, PEOPLE, (20_000,)), torch.randint(0, FILMS, (20_000,))
    rating = truth[user, item] + 0.1 * torch.randn(len(user))
    net = Recommender()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(3):
        for chosen in torch.randperm(len(user)).split(256):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(user[chosen], item[chosen]), rating[chosen]).backward()
            optimizer.step()
    net.eval()

    calibration = [(user[start : start + 256], item[start : start + 256]) for start in range(0, 2048, 256)]
    lowbit.convert(net, calibration=calibration).save(path)
    model = lowbit.load(path)

    people, agreed = 50, 0
    for person in range(people):
        films = np.arange(FILMS)
        ranked = np.argsort(-model(np.full(FILMS, person), films))[:10]
        with torch.inference_mode():
            wanted = net(torch.full((FILMS,), person), torch.from_numpy(films)).argsort(descending=True)[:10]
        agreed += len(set(ranked.tolist()) & set(wanted.tolist()))
    print(f"films that both put into the ten best: {agreed / people:.1f} of 10")
    print("one person, one film:", model(np.array([3]), np.array([14])).round(2))


if __name__ == "__main__":
    main(*sys.argv[1:])
