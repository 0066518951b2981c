"""`longrun deploy`: configurations of what runs longrun, or stands in front of it."""
