"""Who answers better, and how good a model is: ratings from pairwise judgements (Elo, Bradley-Terry), relative scores, measures
(perplexity, MMLU, CrowS-Pairs), and the published figures."""
