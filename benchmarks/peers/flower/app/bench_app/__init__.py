"""The Flower App of the comparison: FedAvg with every client in every round, no evaluation."""
