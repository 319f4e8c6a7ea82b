"""Networks: encoders make expert features, experts mix them, gates weigh them, heads read them, policy puts them together."""
