"""From operators and recipes to launches on a device: code, arrays, plans and passes."""
