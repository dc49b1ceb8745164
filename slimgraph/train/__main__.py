"""`python -m slimgraph.train`, for `accelerate launch -m`."""

from slimgraph.train.command import main

if __name__ == "__main__":
    main()
