"""Seconds and memory a step of ours and of TRL's trainers on the same work, and ours phase by phase against its floors."""
