"""The task `custom`: the user's model, data, reward and judge; what is missing is made from what is there."""
