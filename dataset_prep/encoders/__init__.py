"""From the texts and images of items to one row of numbers each."""
