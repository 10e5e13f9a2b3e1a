"""Advice before a training: what the images are, what a step costs on this device, and which parameters fit."""
