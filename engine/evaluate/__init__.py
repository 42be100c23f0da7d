"""Who answers better: ratings from pairwise judgements (Elo, Bradley-Terry), relative scores, and the published figures."""
