"""From rollouts to weights: batches, V-trace's targets, losses, minibatches, gradients and optimiser steps."""
