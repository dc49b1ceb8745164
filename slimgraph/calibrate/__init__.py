"""Running models on unlabelled data: what single layers see, as sums that ranks can share."""
