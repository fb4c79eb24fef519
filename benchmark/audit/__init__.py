"""The audit: is a defense robust, or did the attack fail?"""
