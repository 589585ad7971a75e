"""Pictures of results: heat maps over images, contact sheets, cards of features and images."""
